package driver

import "fmt"

// ConfigError says which field of a Config is invalid, and why. pgsource and mqttsink return it for
// their configurations, too. A program that fills a Config from its own settings can use Field to
// name the setting to its users.
type ConfigError struct {
	Field string
	// Value is the invalid value; nil if it must not be shown because it may contain a password.
	Value any
	// Problem continues the sentence that begins with the field and, if there is one, its value:
	// "must be 1 to 64".
	Problem string
}

// Error is one line.
func (e *ConfigError) Error() string {
	if e.Value == nil {
		return e.Field + " " + e.Problem
	}
	return fmt.Sprintf("%s is %v, %s", e.Field, e.Value, e.Problem)
}
