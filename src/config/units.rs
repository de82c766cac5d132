//! Durations and sizes as the configuration writes them: a whole number and its unit, both ways.
//!
//! Only steps of 1024 are sizes. `MB` means one thing to a disk vendor and another to everybody else, so it is
//! refused with a hint instead of being guessed.

use std::time::Duration;

/// Why a text is not a duration or a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InvalidQuantity {
    /// What is wrong, to stand below the caret.
    pub(crate) message: String,
    /// What to write instead.
    pub(crate) help: String,
}

/// Reads `"500us"`, `"250ms"`, `"2s"`, `"1m"` or `"1h"`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, InvalidQuantity> {
    let micros = parse(text, &DURATIONS, DURATION_HELP)?;
    Ok(Duration::from_micros(micros))
}

/// Reads `"512B"`, `"64KiB"`, `"20MiB"` or `"1GiB"`.
pub(crate) fn parse_size(text: &str) -> Result<u64, InvalidQuantity> {
    parse(text, &SIZES, SIZE_HELP)
}

/// Writes a duration as the configuration has it; what is finer than a microsecond is cut off.
pub(crate) fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), &DURATIONS, "s")
}

/// Writes a number of bytes as the configuration has it.
pub(crate) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES, "B")
}

/// A unit: its name, its size in the smallest one, and what people also write for it.
struct Unit {
    name: &'static str,
    factor: u64,
    aliases: &'static [&'static str],
}

fn parse(text: &str, units: &[Unit], help: &str) -> Result<u64, InvalidQuantity> {
    let invalid = |message: &str, help: String| InvalidQuantity { message: message.to_owned(), help };
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(split);
    if number.is_empty() || number.starts_with('.') || number.ends_with('.') {
        return Err(invalid("not a number and a unit", help.to_owned()));
    }
    let word = rest.trim();
    if word.is_empty() {
        let unit = units.iter().find(|unit| unit.name == "s").map_or("KiB", |unit| unit.name);
        return Err(invalid("a unit is missing", format!("with a unit: \"{number}{unit}\"")));
    }
    let exact = units.iter().find(|unit| unit.name == word);
    let Some(unit) = exact.or_else(|| units.iter().find(|unit| unit.is_also(word))) else {
        return Err(invalid("not a known unit", help.to_owned()));
    };
    if number.contains('.') {
        return Err(invalid("only whole numbers", whole(number, unit, units).unwrap_or(help.to_owned())));
    }
    if exact.is_none() {
        return Err(invalid("not a known unit", format!("write \"{number}{}\"", unit.name)));
    }
    if rest != word {
        return Err(invalid("a space inside", format!("write \"{number}{word}\"")));
    }
    let amount = number.parse().ok().and_then(|number: u64| number.checked_mul(unit.factor));
    amount.ok_or_else(|| invalid("far too large", help.to_owned()))
}

/// The same amount without a fraction, where there is one.
fn whole(number: &str, unit: &Unit, units: &[Unit]) -> Option<String> {
    let amount = number.parse::<f64>().ok()? * unit.factor as f64;
    if amount.fract() != 0.0 || amount > 1e15 {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number up to 1e15")]
    let amount = amount as u64;
    Some(format!("write \"{}\"", show(amount, units, unit.name)))
}

fn show(amount: u64, units: &[Unit], zero: &str) -> String {
    if amount == 0 {
        return format!("0{zero}");
    }
    let unit = units.iter().find(|unit| amount.is_multiple_of(unit.factor));
    let unit = unit.expect("the smallest unit divides everything");
    format!("{}{}", amount / unit.factor, unit.name)
}

impl Unit {
    fn is_also(&self, word: &str) -> bool {
        self.name.eq_ignore_ascii_case(word)
            || self.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(word))
    }
}

const DURATION_HELP: &str = "a duration is a whole number and a unit: \"250ms\", \"2s\", \"1m\" or \"1h\"";
const SIZE_HELP: &str = "a size is a whole number and a unit: \"512B\", \"64KiB\", \"20MiB\" or \"1GiB\"";

/// From the largest to the smallest, in microseconds.
const DURATIONS: [Unit; 5] = [
    Unit { name: "h", factor: 3_600_000_000, aliases: &["hr", "hrs", "hour", "hours"] },
    Unit { name: "m", factor: 60_000_000, aliases: &["min", "mins", "minute", "minutes"] },
    Unit { name: "s", factor: 1_000_000, aliases: &["sec", "secs", "second", "seconds"] },
    Unit { name: "ms", factor: 1000, aliases: &["msec", "msecs", "millis", "milliseconds"] },
    Unit { name: "us", factor: 1, aliases: &["µs", "μs", "usec", "micros", "microseconds"] },
];

/// From the largest to the smallest, in bytes.
const SIZES: [Unit; 4] = [
    Unit { name: "GiB", factor: 1 << 30, aliases: &["G", "GB", "gigabytes"] },
    Unit { name: "MiB", factor: 1 << 20, aliases: &["M", "MB", "megabytes"] },
    Unit { name: "KiB", factor: 1 << 10, aliases: &["K", "KB", "kilobytes"] },
    Unit { name: "B", factor: 1, aliases: &["byte", "bytes"] },
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_duration_that_was_printed_is_read_again(micros in prop_oneof![0u64..10_000_000, 0..=u64::MAX]) {
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }

        #[test]
        fn a_size_that_was_printed_is_read_again(bytes in prop_oneof![0u64..1 << 21, 0..=u64::MAX]) {
            prop_assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_makes_a_reader_panic(text in "[0-9.]{0,25}\\PC{0,8}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }

        #[test]
        fn a_suggestion_is_itself_readable(number in 0u32..1_000_000, tenths in 0u32..10, unit in "(s|sec|min|hr|MSEC|KB|m|mb| s|GiB)") {
            for text in [format!("{number}{unit}"), format!("{number}.{tenths}{unit}")] {
                let written = |help: &str| {
                    let quoted = help.strip_prefix("write \"")?.strip_suffix('"')?;
                    Some(quoted.to_owned())
                };
                if let Some(text) = parse_duration(&text).err().and_then(|error| written(&error.help)) {
                    prop_assert!(parse_duration(&text).is_ok(), "{text}");
                }
                if let Some(text) = parse_size(&text).err().and_then(|error| written(&error.help)) {
                    prop_assert!(parse_size(&text).is_ok(), "{text}");
                }
            }
        }
    }

    #[test]
    fn units_mean_what_they_say() {
        for (text, micros) in
            [("500us", 500), ("250ms", 250_000), ("2s", 2_000_000), ("1m", 60_000_000), ("1h", 3_600_000_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_micros(micros)), "{text}");
        }
        for (text, bytes) in
            [("512B", 512), ("64KiB", 64 << 10), ("1MiB", 1 << 20), ("20MiB", 20 << 20), ("1GiB", 1 << 30)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_answered_with_what_to_write() {
        let duration = |text: &str| parse_duration(text).unwrap_err().help;
        assert_eq!(duration("10"), "with a unit: \"10s\"");
        assert_eq!(duration("1.5s"), "write \"1500ms\"");
        assert_eq!(duration("1.5sec"), "write \"1500ms\"");
        assert_eq!(duration("5 s"), "write \"5s\"");
        assert_eq!(duration("5min"), "write \"5m\"");
        assert_eq!(duration("5MS"), "write \"5ms\"");
        for text in ["", "s", "-1s", "+1s", "1d", "1s2", "1.s", ".5s", "1..5s", "99999999999999999999h"] {
            assert_eq!(duration(text), DURATION_HELP, "{text:?}");
        }
        let size = |text: &str| parse_size(text).unwrap_err().help;
        assert_eq!(size("64"), "with a unit: \"64KiB\"");
        assert_eq!(size("20MB"), "write \"20MiB\"");
        assert_eq!(size("20m"), "write \"20MiB\"");
        assert_eq!(size("0.5GiB"), "write \"512MiB\"");
        assert_eq!(size("20PiB"), SIZE_HELP);
    }
}
