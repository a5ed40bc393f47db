package cli

import (
	"context"
	"time"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/agent"
	"github.com/spf13/cobra"
)

// completing bounds what a shell waits for after a tab.
const completing = 2 * time.Second

// completeNames completes a service, and then, where there is one, an operation of it. What
// cannot be asked completes to nothing.
func (a *app) completeNames(operations bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) (out []cobra.Completion, _ cobra.ShellCompDirective) {
		_ = a.client(cmd, completing, func(ctx context.Context, c *agent.Client) error { // a shell has nowhere to show an error
			switch {
			case len(args) == 0:
				resp, err := c.List(ctx, &solov1.ListRequest{PageSize: 500})
				for _, s := range resp.GetServices() {
					out = append(out, s.GetName())
				}
				return err
			case len(args) == 1 && operations:
				s, err := c.Status(ctx, args[0])
				for _, o := range s.GetManifest().GetOperations() {
					out = append(out, cobra.CompletionWithDesc(o.GetName(), o.GetDescription()))
				}
				return err
			}
			return nil
		})
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}
