package chaos

import (
	"fmt"
	"math/rand/v2"
)

// Values of Config.Settings.
const (
	SettingsBySeed  = "seed"
	SettingsPlain   = "plain"
	SettingsHostile = "hostile"
)

// hostileSettings are settings that an administrator may give a role. All are legal, and each can
// break a program that relies on the defaults. None of them may change what is published, or when.
var hostileSettings = []struct{ name, value string }{
	{"default_transaction_isolation", "repeatable read"},
	{"default_transaction_isolation", "serializable"},
	{"default_transaction_deferrable", "on"},
	{"synchronous_commit", "off"},
	{"statement_timeout", "1s"},
	{"lock_timeout", "300ms"},
	{"idle_in_transaction_session_timeout", "1s"},
	{"idle_session_timeout", "2s"},
	{"row_security", "off"},
	{"search_path", "nobodys_schema, public"},
	{"DateStyle", "German, DMY"},
	{"IntervalStyle", "sql_standard"},
	{"TimeZone", "Asia/Kathmandu"},
	{"bytea_output", "escape"},
	{"extra_float_digits", "-15"},
	{"standard_conforming_strings", "off"},
	{"transform_null_equals", "on"},
	{"default_toast_compression", "pglz"},
	{"plan_cache_mode", "force_generic_plan"},
	{"enable_indexscan", "off"},
	{"enable_bitmapscan", "off"},
	{"work_mem", "64kB"},
	{"tcp_user_timeout", "0"},
	{"log_statement", "none"},
}

// roleSettings returns the statements that give the instances' role its settings. A third of the
// seeds have hostile settings, and each of these seeds draws about half of them.
func roleSettings(cfg Config) []string {
	r := rand.New(rand.NewPCG(cfg.Seed, 0x73657474696e6773)) // not the generator of the schedule: the settings must not change the schedule
	hostile := r.IntN(3) == 0
	switch cfg.Settings {
	case SettingsPlain:
		return nil
	case SettingsHostile:
	default:
		if !hostile {
			return nil
		}
	}
	var statements []string
	for _, s := range hostileSettings {
		if r.IntN(2) == 0 {
			statements = append(statements, fmt.Sprintf("ALTER ROLE app SET %s = %s", s.name, settingValue(s.name, s.value)))
		}
	}
	return statements
}

// settingValue quotes a value, unless it is a list.
func settingValue(name, value string) string {
	if name == "search_path" || name == "DateStyle" {
		return value
	}
	return "'" + value + "'"
}
