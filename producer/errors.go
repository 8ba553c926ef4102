package producer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

// RuleError says that a job is not valid, and why. Nothing was inserted or changed, and the job will be
// refused again; the transaction, if there is one, has to be rolled back.
type RuleError struct {
	// Column of the table jobs, or of reactor.schedules; "" if the rule is about the whole message, or is not one of reactor's.
	Column string
	// Rule in words, as "topic must not contain the wildcards + or #". Of a rule that is not one of
	// reactor's it is the name of its constraint.
	Rule string
	// Err is the *pgconn.PgError; nil if the database was not asked.
	Err error
}

func (e *RuleError) Error() string { return e.Rule }
func (e *RuleError) Unwrap() error { return e.Err }

// ErrSchema says that reactor's functions are not in the database.
var ErrSchema = errors.New("the functions of reactor are not in this database: run `reactor migrate up`, to version 6 or newer, and look at the database of the connection")

// explain puts an error of the database in words.
func explain(what string, err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code {
		case pgerrcode.CheckViolation:
			err = &RuleError{columnOf(pgErr.ConstraintName), pgErr.ConstraintName, err}
		case pgerrcode.NotNullViolation:
			err = &RuleError{pgErr.ColumnName, pgErr.ColumnName + " must be given", err}
		case pgerrcode.UniqueViolation:
			if pgErr.ConstraintName == pgErr.TableName+"_key" { // jobs_key, of the table jobs
				err = &RuleError{"key", "key is that of a job that has not fired: Schedule replaces that one", err}
			} else {
				err = &RuleError{"", pgErr.ConstraintName, err}
			}
		case pgerrcode.NoDataFound:
			err = fmt.Errorf("%w (%w)", ErrNoSchedule, err)
		case pgerrcode.UndefinedFunction, pgerrcode.InvalidSchemaName, pgerrcode.UndefinedTable:
			err = fmt.Errorf("%w (%w)", ErrSchema, err)
		case pgerrcode.InsufficientPrivilege:
			err = fmt.Errorf("the role lacks a right: as the owner of the tables GRANT what the head of sql/functions.sql names (%w)", err)
		}
	}
	return fmt.Errorf("producer: %s: %w", what, err)
}

// columnOf finds the column in the name of a constraint of ours, which begins with it.
func columnOf(rule string) string {
	first, _, _ := strings.Cut(rule, " ")
	if first != rule && (slices.Contains(columns, first) || slices.Contains(scheduleColumns, first)) {
		return first
	}
	return ""
}
