//! What a plain scalar is for `kubectl`, whose YAML parser follows YAML 1.1 for booleans and numbers.

use alloc::borrow::Cow;

/// A scalar with its text as written (after unquoting and unescaping).
#[derive(Clone, Debug)]
pub(super) struct Scalar<'t> {
    pub(super) text: Cow<'t, str>,
    pub(super) kind: ScalarKind,
}

/// The type a scalar resolves to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ScalarKind {
    Null,
    /// `true` and `false`, but also `yes`, `on`, `y` and their negations, in three spellings each.
    Boolean(bool),
    /// A plain decimal integer without sign tricks or leading zeros.
    Integer(i64),
    /// Any other number: fractions, exponents, octal, hexadecimal, underscores. Nothing we read wants one.
    Number,
    Text,
}

impl ScalarKind {
    /// Resolves an unquoted scalar.
    pub(super) fn of_plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Null,
            "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
                return Self::Boolean(true);
            }
            "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off"
            | "OFF" => {
                return Self::Boolean(false);
            }
            ".nan" | ".NaN" | ".NAN" => return Self::Number,
            _ => {}
        }
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
            return Self::Number;
        }
        if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
            return Self::Text;
        }
        if unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
            let canonical = !text.starts_with('+')
                && (unsigned == "0" || !unsigned.starts_with('0'))
                && text != "-0";
            return match text.parse() {
                Ok(integer) if canonical => Self::Integer(integer),
                Ok(_) | Err(_) => Self::Number,
            };
        }
        if is_based_integer(unsigned) || is_float(unsigned) { Self::Number } else { Self::Text }
    }

    /// Names the type for a message.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "boolean",
            Self::Integer(_) | Self::Number => "number",
            Self::Text => "string",
        }
    }
}

/// `0x1F`, `0o17`, `0b101`, and digits with underscores.
fn is_based_integer(unsigned: &str) -> bool {
    let bare: String = unsigned.chars().filter(|character| *character != '_').collect();
    let digits =
        |text: &str, radix| !text.is_empty() && text.chars().all(|digit| digit.is_digit(radix));
    let based = |prefixes: [&str; 2], radix| {
        prefixes
            .iter()
            .any(|prefix| bare.strip_prefix(prefix).is_some_and(|rest| digits(rest, radix)))
    };
    digits(&bare, 10) || based(["0x", "0X"], 16) || based(["0o", "0O"], 8) || based(["0b", "0B"], 2)
}

/// `[0-9]*.[0-9]*` with an optional exponent and at least one digit, as the parser's pattern has it.
fn is_float(unsigned: &str) -> bool {
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_fine = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !digits.is_empty() && all_digits(digits)
    });
    all_digits(whole)
        && all_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent_fine
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::ScalarKind::{self, Boolean, Integer, Null, Number, Text};

    #[rstest]
    #[case::empty("", Null)]
    #[case::tilde("~", Null)]
    #[case::null("NULL", Null)]
    #[case::not_null("nuLL", Text)]
    #[case::yes("yes", Boolean(true))]
    #[case::y("y", Boolean(true))]
    #[case::off("Off", Boolean(false))]
    #[case::not_a_boolean("yEs", Text)]
    #[case::port("80", Integer(80))]
    #[case::negative("-1", Integer(-1))]
    #[case::zero("0", Integer(0))]
    #[case::plus("+80", Number)]
    #[case::octal("010", Number)]
    #[case::octal_looking("08", Number)]
    #[case::new_octal("0o10", Number)]
    #[case::hexadecimal("0x1F", Number)]
    #[case::binary("0b11", Number)]
    #[case::exponent("1e3", Number)]
    #[case::fraction(".5", Number)]
    #[case::trailing_dot("5.", Number)]
    #[case::underscores("1_000", Number)]
    #[case::huge("99999999999999999999", Number)]
    #[case::infinity("-.inf", Number)]
    #[case::version("1.2.3", Text)]
    #[case::address("10.0.0.1", Text)]
    #[case::cidr("10.0.0.0/8", Text)]
    #[case::range("8000-9000", Text)]
    #[case::date("2024-01-01T00:00:00Z", Text)]
    #[case::time("12:30", Text)]
    #[case::dot(".", Text)]
    #[case::hash("3e8f1a", Text)]
    #[case::dangerous_hash("3e81", Number)]
    fn a_plain_scalar_has_the_type_kubectl_sees(#[case] text: &str, #[case] kind: ScalarKind) {
        assert_eq!(ScalarKind::of_plain(text), kind);
    }
}
