package resmon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/resmon/internal/scrape"
	"golang.org/x/net/netutil"
)

const (
	// maxConns bounds connections to the metrics address; maxAtOnce requests that ask the components.
	maxConns  = 64
	maxAtOnce = 8
)

// web serves the node's metrics and health:
//
//	/metrics  every component's series, Prometheus text format
//	/healthz  200 when every component that the node knows says that it is well, else 503
//	/readyz   200 when besides every component that there should be is there, else 503
type web struct {
	addr   string
	server *http.Server
	wg     sync.WaitGroup
}

func serve(addr string, s *scrape.Scraper, ready func() bool, log *slog.Logger) (*web, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("metrics address %s: %w", addr, err)
	}
	slots := make(chan struct{}, maxAtOnce)
	bounded := func(f http.HandlerFunc) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
				f(w, r)
			default:
				w.Header().Set("Retry-After", "1")
				http.Error(w, "too many requests at once", http.StatusServiceUnavailable)
			}
		})
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", bounded(func(w http.ResponseWriter, r *http.Request) { metrics(w, r, s, log) }))
	mux.Handle("GET /healthz", bounded(func(w http.ResponseWriter, r *http.Request) { health(w, r.Context(), s, true, nil) }))
	mux.Handle("GET /readyz", bounded(func(w http.ResponseWriter, r *http.Request) { health(w, r.Context(), s, ready(), expected()) }))
	w := &web{addr: l.Addr().String(), server: &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}
	w.wg.Go(func() {
		if err := w.server.Serve(netutil.LimitListener(l, maxConns)); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the metrics address is not served any more", "error", err)
		}
	})
	return w, nil
}

func (w *web) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if w.server.Shutdown(ctx) != nil {
		_ = w.server.Close() // what is left had its second
	}
	w.wg.Wait()
}

// expected are the components without which a node is not ready.
func expected() []string {
	return []string{subject.Audit, subject.Capmgr, subject.Deployer, subject.Gateway, subject.Registry, subject.Resmon}
}

func metrics(w http.ResponseWriter, r *http.Request, s *scrape.Scraper, log *slog.Logger) {
	format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultAcceptedFormats()...)
	var b bytes.Buffer
	enc := expfmt.NewEncoder(&b, format)
	for _, f := range s.Metrics(r.Context()) {
		if err := enc.Encode(f); err != nil {
			log.Warn("a metric cannot be encoded", "metric", f.GetName(), "error", err)
		}
	}
	w.Header().Set("Content-Type", string(format))
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	_, _ = b.WriteTo(w) // the reader may have gone
}

func health(w http.ResponseWriter, ctx context.Context, s *scrape.Scraper, ok bool, want []string) {
	components := s.Health(ctx)
	for _, name := range want {
		if !slices.ContainsFunc(components, func(h scrape.Health) bool { return h.Component == name }) {
			components = append(components, scrape.Health{Component: name, Message: "not started"})
		}
	}
	for _, h := range components {
		ok = ok && h.OK
	}
	b, err := json.Marshal(map[string]any{"ok": ok, "components": components})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(append(b, '\n')) // the reader may have gone
}
