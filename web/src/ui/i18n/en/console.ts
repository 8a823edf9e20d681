export default { title: "Chair's console" }
