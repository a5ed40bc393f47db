package cli

import (
	"fmt"
	"path/filepath"

	"github.com/solo-os/solo/sdk/internal/scaffold"
	"github.com/spf13/cobra"
)

func (a *app) initCommand() *cobra.Command {
	var lang, service string
	cmd := &cobra.Command{
		Use:     "init FOLDER",
		Short:   "Make a folder with a service to start from",
		Example: "  solo init hello\n  solo deploy -f hello/manifest.yaml",
		Args:    exactly(1, "the folder to make"),
		RunE: func(_ *cobra.Command, args []string) error {
			if lang != "go" {
				return misuse("--lang %q: want go", lang)
			}
			if service == "" {
				service = "demo/" + scaffold.NameOf(filepath.Base(a.path(args[0])))
			}
			if err := isService(service); err != nil {
				return err
			}
			if err := scaffold.Go(a.path(args[0]), service); err != nil {
				return err
			}
			fmt.Fprintf(a.Stdout, "%s is in %s. Next:\n  solo deploy -f %s\n  solo call %s greet world\n", service, args[0], quote(filepath.Join(args[0], "manifest.yaml")), service)
			return nil
		},
	}
	cmd.Flags().StringVar(&lang, "lang", "go", "`language`: go")
	cmd.Flags().StringVar(&service, "name", "", "service as `NAMESPACE/NAME`; demo and the folder's name by default")
	_ = cmd.RegisterFlagCompletionFunc("lang", cobra.FixedCompletions([]string{"go"}, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	return cmd
}
