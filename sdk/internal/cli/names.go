package cli

import (
	"context"
	"strings"

	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/sdk/agent"
	"github.com/spf13/cobra"
)

// What is no name is misuse, and is said before Solo is asked.

// checked is the number of arguments, and then what each of them must be. Those beyond checks
// may be anything.
func checked(args cobra.PositionalArgs, checks ...func(arg string) error) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if err := args(cmd, given); err != nil {
			return err
		}
		for i, check := range checks[:min(len(checks), len(given))] {
			if err := check(given[i]); err != nil {
				return err
			}
		}
		return nil
	}
}

// oneService is for commands whose argument is one service.
func oneService() cobra.PositionalArgs {
	return checked(exactly(1, "NAMESPACE/NAME"), isService)
}

func isService(arg string) error {
	if _, err := subject.ParseService(arg); err != nil {
		return usageError{err}
	}
	return nil
}

// isPattern also takes a * for the namespace, the name or both.
func isPattern(arg string) error {
	ns, name, ok := strings.Cut(arg, "/")
	if !ok || ns != "*" && !subject.ValidName(ns) || name != "*" && !subject.ValidName(name) {
		return misuse("%q: want NAMESPACE/NAME, 'NAMESPACE/*' or '*/*'", arg)
	}
	return nil
}

// unknown tells a service of which nothing is kept from one that does not exist, as far as the
// holder may know: then it is the error that says so.
func unknown(ctx context.Context, c *agent.Client, service string) error {
	if _, err := c.Status(ctx, service); fault.Is(err, fault.ReasonServiceNotFound) {
		return err
	}
	return nil
}

func isNamespace(arg string) error {
	if !subject.ValidName(arg) {
		return misuse("%q is no namespace: want 1-40 characters a-z, 0-9 and inner dashes, a letter first", arg)
	}
	return nil
}

func isOp(arg string) error {
	if !subject.ValidOp(arg) {
		return misuse("%q is no operation: want 1-63 characters a-z, 0-9, _ and -, a letter first", arg)
	}
	return nil
}

func isID(flag, arg string) error {
	if !subject.ValidID(arg) {
		return misuse("%s %q: want the id of a capability, U and 55 more characters", flag, arg)
	}
	return nil
}
