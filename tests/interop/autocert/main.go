// A TLS server whose certificates come from golang.org/x/crypto/acme/autocert, as those of the Go relay do, with a
// directory and roots of the caller's choice. It gets the certificate of one name from the CA or its cache, prints
// it in PEM, and ends.
//
//	autocert -cache DIR -name HOST -directory URL -roots FILE -listen ADDRESS
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"log"
	"net/http"
	"os"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

func main() {
	cache := flag.String("cache", "", "directory")
	name := flag.String("name", "", "host")
	directory := flag.String("directory", "", "URL")
	roots := flag.String("roots", "", "PEM file")
	listen := flag.String("listen", "", "where the CA looks for TLS-ALPN-01")
	flag.Parse()

	trusted, err := os.ReadFile(*roots)
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(trusted)
	manager := &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(*cache),
		HostPolicy: autocert.HostWhitelist(*name),
		Client: &acme.Client{
			DirectoryURL: *directory,
			HTTPClient:   &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}},
		},
	}
	listener, err := tls.Listen("tcp", *listen, manager.TLSConfig())
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = conn.(*tls.Conn).Handshake()
				conn.Close()
			}()
		}
	}()
	certificate, err := manager.GetCertificate(&tls.ClientHelloInfo{
		ServerName:       *name,
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		CipherSuites:     []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		SupportedCurves:  []tls.CurveID{tls.CurveP256},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := pem.Encode(os.Stdout, &pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}); err != nil {
		log.Fatal(err)
	}
}
