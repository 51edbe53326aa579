// A server that answers with the path and a number of its own; /health waits for /tmp/ready.
package main

import (
	"crypto/rand"
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	token := rand.Text()
	http.HandleFunc("/", func(response http.ResponseWriter, request *http.Request) {
		if _, err := os.Stat("/tmp/ready"); err != nil && request.URL.Path == "/health" {
			response.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(response, "%s %s", request.URL.Path, token)
	})
	log.Fatal(http.ListenAndServe("0.0.0.0:8000", nil))
}
