package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"skylift/internal/problem"
)

// Invalid says that a daemon's settings cannot be used.
var Invalid = &problem.Kind{
	Code:  "settings-invalid",
	Title: "the settings cannot be used",
	Hint:  "Mend what the message names, in the settings file, the environment or the flags; nothing was started",
}

// load fills settings, which holds the defaults, from file (none if empty),
// the environment and those flags that were set. A name that is not known is
// an error, and so is everything that validate finds.
func load(settings interface{ validate() []error }, file string, flags *pflag.FlagSet) error {
	v := viper.NewWithOptions(viper.KeyDelimiter("."))
	v.SetEnvPrefix("SKYLIFT")
	v.SetEnvKeyReplacer(strings.NewReplacer(".", "_", "-", "_"))
	for _, name := range names(reflect.TypeOf(settings).Elem(), "") {
		if err := v.BindEnv(name); err != nil {
			return Invalid.New(err, "bind %s to the environment", name)
		}
		if flags != nil {
			// A flag that was not set has no say, nor has its default.
			if f := flags.Lookup(name); f != nil && f.Changed {
				if err := v.BindPFlag(name, f); err != nil {
					return Invalid.New(err, "bind %s to its flag", name)
				}
			}
		}
	}
	if file != "" {
		v.SetConfigFile(file)
		v.SetConfigType("yaml")
		if err := v.ReadInConfig(); err != nil {
			return Invalid.New(err, "read the settings file %s", file)
		}
	}
	hooks := viper.DecodeHook(mapstructure.ComposeDecodeHookFunc(mapstructure.StringToTimeDurationHookFunc()))
	if err := v.UnmarshalExact(settings, hooks); err != nil {
		return Invalid.New(err, "understand the settings")
	}
	if err := errors.Join(settings.validate()...); err != nil {
		return Invalid.New(err, "check the settings")
	}
	return nil
}

// names lists the paths of a struct's settings; those in lists can only be in a file.
func names(t reflect.Type, prefix string) (out []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("mapstructure")
		if tag == ",squash" {
			out = append(out, names(f.Type, prefix)...)
			continue
		}
		name := prefix + tag
		switch f.Type.Kind() {
		case reflect.Struct:
			out = append(out, names(f.Type, name+".")...)
		case reflect.Slice:
		default:
			out = append(out, name)
		}
	}
	return out
}

// differing lists the paths of the settings that two structs of one type do
// not have in common; a list counts as one.
func differing(a, b reflect.Value, prefix string) (out []string) {
	for i := range a.NumField() {
		tag := a.Type().Field(i).Tag.Get("mapstructure")
		switch {
		case tag == ",squash":
			out = append(out, differing(a.Field(i), b.Field(i), prefix)...)
		case a.Field(i).Kind() == reflect.Struct:
			out = append(out, differing(a.Field(i), b.Field(i), prefix+tag+".")...)
		case !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()):
			out = append(out, prefix+tag)
		}
	}
	return out
}

// required errs when a setting that must be there is empty.
func required(name, value string) error {
	if value == "" {
		return fmt.Errorf("%s is not set", name)
	}
	return nil
}

// compact drops the nils.
func compact(errs ...error) (out []error) {
	for _, err := range errs {
		if err != nil {
			out = append(out, err)
		}
	}
	return out
}
