export default { title: 'Venue' }
