// Setecserver serves the real setec handler over plain HTTP, from a new
// database with one secret:
//
//	setecserver 127.0.0.1:4711 prod/derp/meshkey VALUE
//
// It prints a line once it listens, and one for each request.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"testing"

	"github.com/tailscale/setec/setectest"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: setecserver ADDRESS NAME VALUE")
		os.Exit(2)
	}
	address, name, value := os.Args[1], os.Args[2], os.Args[3]
	// The handler's parts are made for tests, and need to run in one.
	os.Args = []string{os.Args[0], "-test.v"}
	testing.Main(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{
		Name: "serve",
		F: func(t *testing.T) {
			db := setectest.NewDB(t, nil)
			db.MustPut(db.Superuser, name, value)
			handler := setectest.NewServer(t, db, nil).Mux
			listener, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Println("serving", listener.Addr())
			t.Fatal(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Println("request", r.Method, r.URL.Path)
				handler.ServeHTTP(w, r)
			})))
		},
	}}, nil, nil)
}
