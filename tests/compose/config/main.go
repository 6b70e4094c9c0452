// Composeconfig reads compose.yaml in this folder as `docker compose config` does, by the same loader, and prints it
// as JSON. Warnings and errors go to standard error. One argument: the env file.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	options, err := cli.NewProjectOptions(
		nil, cli.WithOsEnv, cli.WithEnvFiles(os.Args[1]), cli.WithDotEnv, cli.WithDefaultConfigPath,
	)
	if err == nil {
		var text []byte
		if text, err = load(options); err == nil {
			fmt.Println(string(text))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func load(options *cli.ProjectOptions) ([]byte, error) {
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return nil, err
	}
	return project.MarshalJSON()
}
