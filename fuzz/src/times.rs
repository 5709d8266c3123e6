//! Times of evidence: the program, the ValidatingAdmissionPolicy and a calendar of this module's
//! own have one grammar and one meaning.

use std::sync::LazyLock;

use fencegate::policy::{annotation::FENCED_AT, evidence};
use regex::Regex;

/// The policy's regular expression for a time, as it is shipped.
static GRAMMAR: LazyLock<Regex> = LazyLock::new(|| {
    let policy = include_str!("../../charts/fencegate/files/base/admission-policy.yaml");
    let (_, after) = policy.split_once("- name: time\n").unwrap();
    let expression = after.split('\'').nth(1).unwrap();
    assert!(expression.starts_with("^((") && policy.contains(".matches('^9999-12-(29|3)')"), "{expression}");
    Regex::new(expression).unwrap()
});

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parsed = evidence::parse_time(text);
    let is_last = ["9999-12-29", "9999-12-3"].iter().any(|start| text.starts_with(start));
    let is_accepted = text.chars().count() <= 64 && !is_last && GRAMMAR.is_match(text);
    assert_eq!(parsed.is_some(), is_accepted, "{text:?}: the policy accepts it: {is_accepted}");
    assert_eq!(evidence::malformed(FENCED_AT, text).is_none(), parsed.is_some(), "{text:?}");
    if let Some(time) = parsed {
        assert_eq!((time.as_second(), time.subsec_nanosecond()), instant(text), "{text:?}");
    }
}

/// The instant of a well-formed time: seconds since 1970, and nanoseconds of the same sign.
fn instant(text: &str) -> (i64, i32) {
    let number = |from: usize, to: usize| text[from..to].parse::<i64>().unwrap();
    let (hour, minute, second) = (number(11, 13), number(14, 16), number(17, 19));
    let local = days(number(0, 4), number(5, 7), number(8, 10)) * 86_400 + hour * 3600 + minute * 60 + second;
    let offset = text.rfind(['+', '-']).filter(|at| *at >= 19).map_or(0, |at| {
        let minutes = number(at + 1, at + 3) * 60 + number(at + 4, at + 6);
        if text[at..].starts_with('-') { -minutes } else { minutes }
    });
    let digits: String = text[19..].trim_start_matches('.').chars().take_while(char::is_ascii_digit).take(9).collect();
    let fraction = if text[19..].starts_with('.') { format!("{digits:0<9}").parse().unwrap() } else { 0 };
    let seconds = local - offset * 60;
    if seconds < 0 && fraction > 0 { (seconds + 1, fraction - 1_000_000_000) } else { (seconds, fraction) }
}

/// The days from 1970-01-01 to a day of the Gregorian calendar, counted year by year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    // Leap days in the years before this one, since the year 0.
    let leap_days = |year: i64| if year == 0 { 0 } else { (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400 + 1 };
    let before = |year: i64| year * 365 + leap_days(year);
    let in_year = BEFORE[usize::try_from(month - 1).unwrap()] + i64::from(is_leap && month > 2) + day - 1;
    before(year) - before(1970) + in_year
}
