package guest

import (
	"bytes"
	"context"
	"log/slog"

	"github.com/solo-os/solo/sdk/guest/abi"
)

// Log returns a logger whose records become log lines of this instance.
func Log(context.Context) *slog.Logger {
	return slog.New(&logHandler{})
}

// logHandler renders a record as text without time and level, which the host knows, and sends it.
type logHandler struct {
	wrap []func(slog.Handler) slog.Handler
}

// Enabled lets everything through: what is shown is the reader's choice.
func (*logHandler) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs adds attributes to every record.
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func(t slog.Handler) slog.Handler { return t.WithAttrs(attrs) })
}

// WithGroup puts later attributes in a group.
func (h *logHandler) WithGroup(name string) slog.Handler {
	return h.with(func(t slog.Handler) slog.Handler { return t.WithGroup(name) })
}

func (h *logHandler) with(f func(slog.Handler) slog.Handler) *logHandler {
	return &logHandler{wrap: append(h.wrap[:len(h.wrap):len(h.wrap)], f)}
}

// Handle sends one record.
func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	var buf bytes.Buffer
	var text slog.Handler = slog.NewTextHandler(&buf, &slog.HandlerOptions{
		Level: slog.LevelDebug - 100,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
				return slog.Attr{}
			}
			return a
		},
	})
	for _, f := range h.wrap {
		text = f(text)
	}
	if err := text.Handle(ctx, r); err != nil {
		return err
	}
	line := r.Message
	if rest := bytes.TrimSpace(buf.Bytes()); len(rest) > 0 {
		line += " " + string(rest)
	}
	return hostLog(level(r.Level), line)
}

func level(l slog.Level) uint32 {
	switch {
	case l < slog.LevelInfo:
		return abi.LevelDebug
	case l < slog.LevelWarn:
		return abi.LevelInfo
	case l < slog.LevelError:
		return abi.LevelWarn
	}
	return abi.LevelError
}
