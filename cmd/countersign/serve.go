package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
)

const (
	// Limits of the listeners. Headers of registry clients are some hundreds of
	// bytes; tokens of up to 8 KiB are in use.
	maxHeaderBytes    = 32 << 10
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 120 * time.Second
	// shutdownTimeout is how long transfers may take to finish after the
	// signal: as long as orchestrators allow at most.
	shutdownTimeout = 60 * time.Second
	// maxStreams bounds concurrent requests on one HTTP/2 connection.
	maxStreams = 250
)

func newServeCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the proxy",
		Long: "Run the proxy by a configuration file. Without --config, config.yaml of the working\n" +
			"directory is used, or the built-in one, which refuses everything until rules are added.",
		Example: "  countersign serve --config /etc/countersign/config.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(config)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			return serve(cmd.Context(), c, cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "configuration `file`")
	return cmd
}

// serve runs the proxy and the admin listener until ctx ends, then lets
// transfers finish.
func serve(ctx context.Context, c *Config, log io.Writer) error {
	a, err := assemble(c, log)
	if err != nil {
		return err
	}
	defer a.close()
	for _, w := range c.Warnings {
		a.log.Warn(w)
	}
	main, err := listen(c.Server.Listen, c.Server.TLS)
	if err != nil {
		return err
	}
	admin, err := listen(c.Server.Admin, nil)
	if err != nil {
		main.Close()
		return err
	}
	servers := []*http.Server{newServer(a.proxy, a.log), newServer(a.adminHandler(), a.log)}
	failed := make(chan error, len(servers))
	for i, l := range []net.Listener{main, admin} {
		go func() { failed <- servers[i].Serve(l) }()
	}
	a.log.Info("serving", zap.String("listen", main.Addr().String()), zap.String("admin", admin.Addr().String()),
		zap.Bool("tls", c.Server.TLS != nil), zap.Int("rules", len(c.Policy.Rules())))
	a.ready.Store(true)
	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	a.ready.Store(false)
	a.log.Info("stopping: transfers may finish", zap.Duration("within", shutdownTimeout))
	// The signal has been given; what follows has its own limit.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	return errors.Join(servers[0].Shutdown(ctx), servers[1].Shutdown(ctx))
}

func newServer(h http.Handler, log *zap.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		MaxHeaderBytes:    maxHeaderBytes,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          zap.NewStdLog(log),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
	}
}

// listen opens a listener, with TLS if t is set. The certificate is read again
// when its files change.
func listen(address string, t *TLS) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w: is another instance running, or the address not of this host?", address, err)
	}
	if t == nil {
		return l, nil
	}
	certs, err := newCertificates(t.Certificate, t.Key)
	if err != nil {
		l.Close()
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: certs.get}
	if t.ClientCA != nil {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, t.ClientCA
	}
	return tls.NewListener(l, config), nil
}

// adminHandler serves health and metrics. /healthz says that the process
// answers, /readyz that it can serve pulls.
func (a *assembly) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := a.checkReady(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "ready\n%s", a.trust.detail())
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{}))
	return mux
}
