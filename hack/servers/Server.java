import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.UUID;
import java.util.concurrent.Executors;

/** Answers with the path and a number of its own; /health waits for /tmp/ready. */
public class Server {
    public static void main(String[] arguments) throws Exception {
        String token = UUID.randomUUID().toString();
        HttpServer server = HttpServer.create(new InetSocketAddress("0.0.0.0", 8000), 0);
        server.createContext("/", exchange -> {
            String path = exchange.getRequestURI().getPath();
            boolean waits = path.equals("/health") && !Files.exists(Path.of("/tmp/ready"));
            byte[] body = (path + " " + token).getBytes();
            exchange.sendResponseHeaders(waits ? 503 : 200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
    }
}
