//! The trace that a call belongs to: the header `traceparent` of W3C Trace Context, which an API
//! server with tracing sends.

use axum::http::HeaderMap;

/// The name of the header (<https://www.w3.org/TR/trace-context/#traceparent-header>).
const TRACEPARENT: &str = "traceparent";

/// The ID of a trace: 32 hexadecimal digits in lower case, not all of them zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceId(String);

impl TraceId {
    /// The trace ID in the headers of a request. `None` if there is no `traceparent`, more than
    /// one, or a malformed one.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let (value, another) = (values.next()?, values.next());
        if another.is_some() { None } else { Self::parse(value.to_str().ok()?) }
    }

    /// Parses `version-trace_id-parent_id-flags`. A later version than `00` may have more parts.
    fn parse(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.split('-');
        let mut hex = |length| parts.next().filter(|part| part.len() == length && part.bytes().all(is_hex));
        let (version, trace, parent, _flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let is_complete = version != "00" || parts.next().is_none();
        let is_zero = |id: &str| id.bytes().all(|digit| digit == b'0');
        (version != "ff" && is_complete && !is_zero(trace) && !is_zero(parent)).then(|| Self(trace.to_owned()))
    }

    /// The 32 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The specification allows lower case only.
fn is_hex(digit: u8) -> bool {
    digit.is_ascii_digit() || matches!(digit, b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn a_well_formed_traceparent_names_its_trace() {
        for (value, is_well_formed) in [
            (format!("00-{TRACE}-b7ad6b7169203331-01"), true),
            (format!("00-{TRACE}-b7ad6b7169203331-00"), true),
            (format!("00-{TRACE}-b7ad6b7169203331-01-more"), false),
            (format!("01-{TRACE}-b7ad6b7169203331-01-more"), true),
            (format!("ff-{TRACE}-b7ad6b7169203331-01"), false),
            (format!("00-{}-b7ad6b7169203331-01", TRACE.to_uppercase()), false),
            (format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)), false),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), false),
            (format!("00-{TRACE}-b7ad6b7169203331"), false),
            (format!("00-{TRACE}0-b7ad6b7169203331-01"), false),
            (format!("00-{TRACE}-b7ad6b716920333g-01"), false),
            (String::new(), false),
        ] {
            let expected = is_well_formed.then(|| TraceId(TRACE.to_owned()));
            assert_eq!(TraceId::parse(&value), expected, "{value}");
        }
    }

    #[test]
    fn a_header_that_is_there_twice_names_no_trace() {
        let value = || format!("00-{TRACE}-b7ad6b7169203331-01").parse().unwrap();
        let mut headers = HeaderMap::new();
        assert_eq!(TraceId::of(&headers), None);
        headers.append(TRACEPARENT, value());
        assert_eq!(TraceId::of(&headers).unwrap().as_str(), TRACE);
        headers.append(TRACEPARENT, value());
        assert_eq!(TraceId::of(&headers), None);
    }
}
