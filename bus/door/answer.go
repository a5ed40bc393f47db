package door

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/fault"
	"google.golang.org/grpc/codes"
)

// answer is an error reply to a call, all of it but where it goes.
type answer struct{ header, body []byte }

// newAnswer puts a fault into the form in which every error crosses the bus.
func newAnswer(err error) answer {
	var m nats.Msg
	rpc.ErrorReply(&m, err)
	var h bytes.Buffer
	h.WriteString("NATS/1.0\r\n")
	line := strings.NewReplacer("\r", " ", "\n", " ")
	for k, vs := range m.Header {
		for _, v := range vs {
			fmt.Fprintf(&h, "%s: %s\r\n", k, line.Replace(v))
		}
	}
	h.WriteString("\r\n")
	return answer{h.Bytes(), m.Data}
}

// message is the answer as the server would deliver it to a subscription.
func (a answer) message(reply []byte, sid string) []byte {
	out := fmt.Appendf(nil, "HMSG %s %s %d %d\r\n", reply, sid, len(a.header), len(a.header)+len(a.body))
	out = append(out, a.header...)
	out = append(out, a.body...)
	return append(out, '\r', '\n')
}

// retryFull is when a call beyond the limit may be tried again.
const retryFull = 100 * time.Millisecond

func errFull(l Limits) error {
	return fault.New(codes.ResourceExhausted, fault.ReasonTooManyCalls, "this holder has %d calls under way already", l.Calls).
		Retry(retryFull).Next("wait for answers before asking more, or unsubscribe from inboxes that are no longer wanted")
}
