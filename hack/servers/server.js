// Answers with the path and a number of its own; /health waits for /tmp/ready.
const fs = require("fs");
const token = require("crypto").randomBytes(8).toString("hex");
const server = require("http").createServer((request, response) => {
  const waits = request.url === "/health" && !fs.existsSync("/tmp/ready");
  response.statusCode = waits ? 503 : 200;
  response.end(`${request.url} ${token}`);
});
server.keepAliveTimeout = 0;
server.listen(8000, "0.0.0.0");
