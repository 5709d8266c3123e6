//! The grammar of the evidence (contract section 2): the allowed values of its annotations, and
//! their meaning.

use std::fmt;

use jiff::Timestamp;

use super::{
    annotation::{self, BOOT_ID, BREAK_GLASS, EVIDENCE, FENCED_AT, FENCED_BY, HOLD, METHOD, NOW, PROOF},
    text::{is_printable, quoted},
};

/// How the node was fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    PowerOff,
    InstanceStop,
    NetworkIsolation,
    StorageIsolation,
    HardwareRemoval,
}

impl Method {
    /// All methods, in the order in which messages list them.
    pub const ALL: [Self; 5] =
        [Self::PowerOff, Self::InstanceStop, Self::NetworkIsolation, Self::StorageIsolation, Self::HardwareRemoval];

    /// The value of the annotation `fencegate.dev/method`.
    pub fn name(self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::InstanceStop => "instance-stop",
            Self::NetworkIsolation => "network-isolation",
            Self::StorageIsolation => "storage-isolation",
            Self::HardwareRemoval => "hardware-removal",
        }
    }

    /// Whether the fence stopped the machine. Otherwise it may still run, cut off.
    pub fn stops_the_machine(self) -> bool {
        match self {
            Self::PowerOff | Self::InstanceStop | Self::HardwareRemoval => true,
            Self::NetworkIsolation | Self::StorageIsolation => false,
        }
    }

    /// The method with this name.
    pub fn parse(value: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == value)
    }
}

/// Complete and well-formed evidence, from the annotations of a Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub method: Method,
    pub fenced_at: Timestamp,
    pub fenced_by: String,
    pub proof: Option<String>,
    pub boot_id: Option<String>,
}

/// Why annotations are not complete, well-formed evidence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flaws {
    /// Required keys that are not set, in the order of the contract.
    pub missing: Vec<&'static str>,
    /// Values that break the grammar, in the order of the contract.
    pub malformed: Vec<Malformed>,
}

/// A value that breaks the grammar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    pub key: &'static str,
    pub value: String,
    /// The rule that the value breaks, as the rest of a sentence: `is not …`.
    pub rule: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={} {}", self.key, quoted(&self.value), self.rule)
    }
}

impl fmt::Display for Flaws {
    /// `a, b are not set, c is malformed`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clause = |keys: &[&str], one: &str, many: &str| match keys {
            [] => None,
            [key] => Some(format!("{key} {one}")),
            keys => Some(format!("{} {many}", keys.join(", "))),
        };
        let malformed: Vec<&str> = self.malformed.iter().map(|value| value.key).collect();
        let clauses =
            [clause(&self.missing, "is not set", "are not set"), clause(&malformed, "is malformed", "are malformed")];
        formatter.write_str(&clauses.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

impl Evidence {
    /// Parses the evidence from annotations. `value` returns the annotation with a key.
    ///
    /// # Errors
    /// All required keys that are missing, and all values that are malformed.
    pub fn parse<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Result<Self, Flaws> {
        let text = |key: &str| value(key).map(str::to_owned);
        let method = text(METHOD).and_then(|value| Method::parse(&value));
        let fenced_at = text(FENCED_AT).and_then(|value| parse_time(&value));
        let flaws = Flaws {
            missing: annotation::REQUIRED_EVIDENCE.into_iter().filter(|key| value(key).is_none()).collect(),
            malformed: EVIDENCE.into_iter().filter_map(|key| malformed(key, value(key)?)).collect(),
        };
        match (method, fenced_at, text(FENCED_BY)) {
            (Some(method), Some(fenced_at), Some(fenced_by)) if flaws == Flaws::default() => {
                Ok(Self { method, fenced_at, fenced_by, proof: text(PROOF), boot_id: text(BOOT_ID) })
            }
            _ => Err(flaws),
        }
    }
}

/// The most characters of `fenced-by`, `boot-id`, `break-glass` and `hold` (contract section 2):
/// enough for a name or a short reason.
const SHORT: usize = 256;
/// The most characters of `proof` (contract section 2): enough for the output of a fence agent.
const LONG: usize = 1024;

/// The rule that a value of this annotation breaks, if any. `None` for keys without a grammar.
pub fn malformed(key: &str, value: &str) -> Option<Malformed> {
    let (key, rule) = match key {
        METHOD => {
            let known = Method::ALL.map(Method::name).join(", ");
            (METHOD, Method::parse(value).is_none().then(|| format!("is not one of {known}"))?)
        }
        FENCED_AT => {
            let rule = match value {
                NOW => "is a time only after the mutating webhook has replaced it, and that has not happened",
                _ => "is not an RFC 3339 time with an offset, e.g. 2026-11-22T10:15:00Z",
            };
            (FENCED_AT, parse_time(value).is_none().then(|| rule.to_owned())?)
        }
        FENCED_BY if is_placeholder(value) => (FENCED_BY, "is a placeholder, not a name".to_owned()),
        FENCED_BY => (FENCED_BY, malformed_text(value, true, SHORT)?),
        PROOF => (PROOF, malformed_text(value, false, LONG)?),
        BOOT_ID => (BOOT_ID, malformed_text(value, true, SHORT)?),
        BREAK_GLASS => (BREAK_GLASS, malformed_text(value, true, SHORT)?),
        HOLD => (HOLD, malformed_text(value, true, SHORT)?),
        _ => return None,
    };
    Some(Malformed { key, value: value.to_owned(), rule })
}

/// Whether a value is what documents show in place of one: `<you>`.
fn is_placeholder(value: &str) -> bool {
    value.starts_with('<') && value.ends_with('>')
}

/// The rule that a text breaks, if any: it must have at most `most` characters, all printable, and
/// if it is required, it must not be blank.
fn malformed_text(value: &str, is_required: bool, most: usize) -> Option<String> {
    let length = value.chars().count();
    if is_required && value.trim().is_empty() {
        Some("is empty".to_owned())
    } else if length > most {
        Some(format!("has {length} characters, at most {most} are allowed"))
    } else if !value.chars().all(is_printable) {
        Some("has a character that does not print".to_owned())
    } else {
        None
    }
}

/// Parses an RFC 3339 time: date, `T`, time of day with seconds, and an offset. Digits after the
/// nanoseconds are dropped. The last three days of the year 9999 are refused, because some of them
/// are beyond what jiff can hold, and so is a leap second: the ValidatingAdmissionPolicy has the
/// same grammar.
pub fn parse_time(value: &str) -> Option<Timestamp> {
    /// Enough for any precision that a clock has.
    const LONGEST: usize = 64;
    if value.len() > LONGEST || ["9999-12-29", "9999-12-3"].iter().any(|end| value.starts_with(end)) {
        return None;
    }
    let (date_time, offset) = value.split_at_checked("0000-00-00T00:00:00".len())?;
    let digits_in_place = date_time.bytes().zip(b"0000-00-00T00:00:00").all(|(byte, shape)| match shape {
        b'0' => byte.is_ascii_digit(),
        b'T' => byte.eq_ignore_ascii_case(&b'T'),
        _ => byte == *shape,
    });
    let (fraction, offset) = match offset.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|character: char| !character.is_ascii_digit())?),
        None => ("0", offset),
    };
    let is_leap_second = date_time.ends_with(":60");
    if !digits_in_place || is_leap_second || fraction.is_empty() || !is_offset(offset) {
        return None;
    }
    let nanoseconds: String = fraction.chars().take(9).collect();
    format!("{date_time}.{nanoseconds}{offset}").parse().ok()
}

/// Whether the text is `Z`, or a sign with hours and minutes.
fn is_offset(offset: &str) -> bool {
    if offset.eq_ignore_ascii_case("Z") {
        return true;
    }
    let Some((hours, minutes)) = offset.strip_prefix(['+', '-']).and_then(|rest| rest.split_once(':')) else {
        return false;
    };
    let below = |text: &str, limit: u8| {
        text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse().is_ok_and(|n: u8| n < limit)
    };
    below(hours, 24) && below(minutes, 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rfc_3339_with_an_offset() {
        let quarter_past_ten: Timestamp = "2026-11-22T10:15:00Z".parse().unwrap();
        for same in [
            "2026-11-22T10:15:00Z",
            "2026-11-22t10:15:00z",
            "2026-11-22T11:15:00+01:00",
            "2026-11-22T10:15:00-00:00",
            "2026-11-22T10:15:00.000Z",
            "2026-11-22T10:15:00.0000000000001Z",
        ] {
            assert_eq!(parse_time(same), Some(quarter_past_ten), "{same}");
        }
        let longest = |digits: usize| parse_time(&format!("2026-11-22T10:15:00.{}Z", "0".repeat(digits)));
        assert_eq!((longest(43), longest(44)), (Some(quarter_past_ten), None), "64 characters");
        let rule = |value| malformed(FENCED_AT, value).map(|malformed| malformed.rule).unwrap_or_default();
        assert!(rule("now").starts_with("is a time only after") && rule("soon").starts_with("is not an RFC 3339 time"));
        for not in [
            "",
            "now",
            "2026-11-22",
            "2026-11-22T10:15Z",
            "2026-11-22T10:15:00",
            "2026-11-22 10:15:00Z",
            "1763806500",
            "2026-11-22T10:15:00+01",
            "2026-11-22T10:15:00+0100",
            "2026-11-22T10:15:00+24:00",
            "2026-11-22T10:15:00.Z",
            "2026-11-22T10:15:00Z[UTC]",
            "2026-13-22T10:15:00Z",
            "2026-11-22T24:15:00Z",
            "2026-02-29T10:15:00Z",
            "2026-11-22T10:15:60Z",
            "9999-12-29T00:00:00Z",
            "2026-11-22T10:15:00.00000000000000000000000000000000000000000000Z",
            "2026-11-22T10:15:00Z ",
            "+02026-11-22T10:15:00Z",
            "2026-11-22T10:15:00é",
            "20é6-11-22T10:15:00Z",
        ] {
            assert_eq!(parse_time(not), None, "{not}");
        }
    }

    #[test]
    fn each_value_has_its_grammar() {
        let long = "x".repeat(257);
        for (key, value, fine) in [
            (METHOD, "power-off", true),
            (METHOD, "Power-Off", false),
            (METHOD, "", false),
            (FENCED_BY, "alice, OPS-123", true),
            (FENCED_BY, "Zoë 佐藤", true),
            (FENCED_BY, &"x".repeat(256), true),
            (FENCED_BY, &long, false),
            (FENCED_BY, "", false),
            (FENCED_BY, "  ", false),
            (FENCED_BY, "a\nb", false),
            (FENCED_BY, "\u{a0}\u{3000}", false),
            (FENCED_BY, "evil\u{202e}txt", false),
            (FENCED_BY, "<you>", false),
            (FENCED_BY, "<>", false),
            (FENCED_BY, "<alice> by hand", true),
            (FENCED_BY, "alice <alice@example.com>", true),
            (FENCED_BY, "\u{2003}", false),
            (HOLD, "disk is being read", true),
            (HOLD, " ", false),
            (HOLD, &long, false),
            (FENCED_AT, "now", false),
            (PROOF, "", true),
            (PROOF, &long, true),
            (PROOF, "tab\tbed", false),
            (BOOT_ID, "", false),
            (BREAK_GLASS, "", false),
            (annotation::PLACED_BY, "", true),
        ] {
            assert_eq!(malformed(key, value).is_none(), fine, "{key}={value}");
        }
        assert!(malformed(PROOF, &"é".repeat(1024)).is_none(), "the limit counts characters, not bytes");
        assert!(malformed(PROOF, &"é".repeat(1025)).is_some());
    }

    #[test]
    fn all_flaws_are_reported_together() {
        let flaws = Evidence::parse(|key| (key == METHOD).then_some("shouted-at")).unwrap_err();
        assert_eq!(flaws.missing, [FENCED_AT, FENCED_BY]);
        assert_eq!(flaws.malformed.len(), 1);
        assert!(
            flaws.malformed[0].to_string().starts_with(r#"fencegate.dev/method="shouted-at" is not one of power-off,"#)
        );
    }
}
