package driver

import "fmt"

// ConfigError says which field of a Config cannot be as it is, and why. The configurations
// of pgsource and mqttsink are refused by it, too, so that a program that fills them from
// settings of its own can tell its users which of those it was.
type ConfigError struct {
	Field string
	// Value is what the field was; nil if it is not to be shown, as it may hold a password.
	Value any
	// Problem goes on after the field and, if there is one, its value: "must be 1 to 64".
	Problem string
}

// Error is one line.
func (e *ConfigError) Error() string {
	if e.Value == nil {
		return e.Field + " " + e.Problem
	}
	return fmt.Sprintf("%s is %v, %s", e.Field, e.Value, e.Problem)
}
