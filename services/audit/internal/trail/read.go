package trail

import (
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/solo-os/solo/bus/auditlog"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// readAhead bounds what waits for a slow reader.
const readAhead = 64

// Reader answers `str.audit.read`.
type Reader struct {
	JS  jetstream.JetStream
	Log *slog.Logger
}

// Read sends the records after a sequence, up to the last one there is now, or, when asked to
// follow, until the reader goes away.
func (r *Reader) Read(ctx context.Context, _ rpc.Caller, req *solov1.AuditRequest, send func(*solov1.AuditResponse) error) error {
	last, err := Last(ctx, r.JS)
	if err != nil {
		return unavailable(err)
	}
	if !req.GetFollow() && req.GetAfterSequence() >= last {
		return nil
	}
	in := make(chan jetstream.Msg, readAhead)
	stop, err := consume(ctx, r.JS, req.GetAfterSequence(), in, r.Log)
	if err != nil {
		return unavailable(err)
	}
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case m := <-in:
			meta, err := m.Metadata()
			if err != nil {
				return fault.Internal(err, "a message of the audit stream has no sequence")
			}
			if err := send(response(meta, m)); err != nil {
				return err
			}
			if !req.GetFollow() && meta.Sequence.Stream >= last {
				return nil
			}
		}
	}
}

func response(meta *jetstream.MsgMetadata, m jetstream.Msg) *solov1.AuditResponse {
	rec, err := auditlog.Parse(m.Data())
	if err != nil { // it is shown that there is something, rather than passed over
		rec = &solov1.AuditRecord{
			Time: timestamppb.New(meta.Timestamp), Event: "unreadable", Phase: "fact", Object: m.Subject(),
			Attributes: map[string]string{"message": "the stored record cannot be read; the audit files hold its bytes"},
		}
	}
	return &solov1.AuditResponse{Sequence: meta.Sequence.Stream, Record: rec}
}

func unavailable(err error) error {
	return fault.Unavailable(time.Second, "the audit trail cannot be read now").Because(err)
}
