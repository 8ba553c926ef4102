package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/pgsource"
)

// rolesFlags are the flags of `reactor migrate up` that are about roles.
type rolesFlags struct {
	Roles      bool   `env:"-" group:"Roles" help:"Then create the roles owner, instance, producer and viewer with the rights that each needs, or bring their rights up to date. As a superuser, or the owner of the database with CREATEROLE."`
	RolePrefix string `group:"Roles" placeholder:"NAME" help:"What the names of the roles begin with, as in NAME_producer: the schema of reactor's own tables if not given. Roles belong to the server: deployments in several databases need a prefix each."`
	Print      bool   `env:"-" group:"Roles" help:"Print the SQL of --roles and do nothing, for somebody who runs it with psql."`
}

func (f rolesFlags) of(database databaseFlags) pgsource.Roles {
	return pgsource.Roles{DatabaseURL: database.connString(), Names: database.names(), RolePrefix: f.RolePrefix}
}

// print writes the SQL if that is asked for.
func (f rolesFlags) print(out cli.Output, database databaseFlags) (done bool, err error) {
	switch {
	case f.Print && !f.Roles:
		return false, cli.Usage(errors.New("--print prints the SQL of --roles: give both"))
	case f.RolePrefix != "" && !f.Roles:
		return false, cli.Usage(errors.New("--role-prefix is for --roles: give both"))
	}
	// Also where it is not printed: a prefix that cannot be used is refused before anything is changed.
	text, err := f.of(database).SQL()
	if err != nil || !f.Print {
		return false, err
	}
	_, err = fmt.Fprintln(out.Stdout, text)
	return true, err
}

// create creates the roles if that is asked for.
func (f rolesFlags) create(ctx context.Context, out cli.Output, database databaseFlags) error {
	if !f.Roles {
		return nil
	}
	roles := f.of(database)
	if err := roles.Create(ctx); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out.Stdout, "the roles %s have their rights; give them to users with GRANT, e.g. GRANT %s TO …\n", strings.Join(roles.List(), ", "), roles.List()[2])
	return err
}
