export default { title: 'Recordings' }
