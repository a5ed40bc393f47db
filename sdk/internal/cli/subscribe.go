package cli

import (
	"context"
	"fmt"
	"io"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/agent"
	"github.com/spf13/cobra"
)

func (a *app) subscribeCommand() *cobra.Command {
	req := &solov1.SubscribeAuditRequest{}
	cmd := &cobra.Command{
		Use:   "subscribe",
		Short: "Have the audit trail read by any NATS client",
		Long: `subscribe makes a pull consumer of the audit trail for your handle, and prints how the nats
command line reads from it. Any other NATS client does as well: connect with the handle as
nkey and an inbox prefix of _INBOX.<your id>, set the JetStream domain to audit, and pull from
the consumer that bears your id on stream AUDIT.

Each record is a JSON object. Acknowledge what you have read: what is not acknowledged in 30 s
comes again. The consumer remembers where you are, goes on from there the next time, and ends
with the handle, or when nobody has used it for a day. Nothing else of JetStream is open to a
handle: clients that look at the stream first are refused that.

It needs audit=read. ` + "`solo audit tail`" + ` reads the trail without a consumer.`,
		Example: "  solo audit subscribe --new\n  solo --handle auditor.nk audit subscribe --after 1200",
		Args:    exactly(0, "flags only"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if req.New && req.AfterSequence > 0 {
				return misuse("--new and --after: begin with new records or after one, not both")
			}
			return a.client(cmd, quick, func(ctx context.Context, c *agent.Client) error {
				resp, err := c.SubscribeAudit(ctx, req)
				if err != nil {
					return err
				}
				line, err := a.natsLine(a.handleFile(), c.ID())
				if err != nil {
					return err
				}
				return a.print(resp, func(w io.Writer) {
					at := fmt.Sprintf("%s --js-domain %s consumer", line, resp.GetDomain())
					of := resp.GetStream() + " " + resp.GetConsumer()
					fmt.Fprintf(w, "%s next %s --count 10\n%s info %s\n", at, of, at, of)
					fmt.Fprintf(a.Stderr, "consumer %s on stream %s, JetStream domain %s: at most %d records and %s a request, %d unacknowledged; kept for %s without use\n",
						resp.GetConsumer(), resp.GetStream(), resp.GetDomain(), resp.GetMaxBatch(), resp.GetMaxWait().AsDuration(),
						resp.GetMaxUnacknowledged(), resp.GetIdleTime().AsDuration())
					if resp.GetExisted() {
						fmt.Fprintln(a.Stderr, "it was there already and goes on where it is")
					}
				})
			})
		},
	}
	f := cmd.Flags()
	f.Uint64Var(&req.AfterSequence, "after", 0, "begin after this record (`N`); 0 begins with the first")
	f.BoolVar(&req.New, "new", false, "begin with what is recorded from now on")
	return cmd
}
