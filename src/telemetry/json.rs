//! A line of the program's own log, as JSON. It has the fields that every line of the audit log
//! has: `ts`, `level`, `event` and `message`.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::clock::Clock;

/// The value of `event` in every line of the program's own log.
const LOG: &str = "log";

/// Writes events as JSON, each on a line.
pub(super) struct JsonLine;

#[derive(Serialize)]
struct Line<'a> {
    ts: Timestamp,
    level: &'a str,
    event: &'a str,
    message: String,
    /// The module that logs.
    target: String,
    #[serde(flatten)]
    more: BTreeMap<String, Value>,
}

/// The names of a line's own fields.
const OWN: [&str; 5] = ["ts", "level", "event", "message", "target"];

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = Line {
            ts: Clock::System.now(),
            level: event.metadata().level().as_str(),
            event: LOG,
            message: fields.message,
            target: fields.target.unwrap_or_else(|| event.metadata().target().to_owned()),
            more: fields.more,
        };
        writeln!(writer, "{}", serde_json::to_string(&line).map_err(|_| fmt::Error)?)
    }
}

/// The fields of one event.
#[derive(Default)]
struct Fields {
    message: String,
    /// The module, for an event of the crate `log`, which has it in a field.
    target: Option<String>,
    more: BTreeMap<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match field.name() {
            "message" => self.message = text(value),
            "log.target" => self.target = Some(text(value)),
            name if name.starts_with("log.") => {}
            name if OWN.contains(&name) => drop(self.more.insert(format!("field.{name}"), value)),
            name => drop(self.more.insert(name.to_owned(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use serde_json::json;
    use tracing_subscriber::{fmt::layer, layer::SubscriberExt as _};

    use super::*;

    #[derive(Clone, Default)]
    struct Taken(Arc<Mutex<Vec<u8>>>);

    impl Write for Taken {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: impl FnOnce()) -> Value {
        let (taken, module) = (Taken::default(), module_path!());
        let writer = taken.clone();
        let lines = layer().event_format(JsonLine).with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), log);
        let mut line: Value = serde_json::from_slice(&taken.0.lock().unwrap()).unwrap();
        let line = line.as_object_mut().unwrap();
        let ts = line.remove("ts").unwrap();
        assert!(ts.as_str().unwrap().parse::<Timestamp>().is_ok(), "{ts}");
        assert_eq!(line.remove("target").unwrap(), module);
        json!(line)
    }

    #[test]
    fn a_line_has_the_time_the_level_the_event_and_the_message() {
        assert_eq!(
            logged(|| tracing::info!("reloaded")),
            json!({"level": "INFO", "event": "log", "message": "reloaded"})
        );
    }

    #[test]
    fn fields_keep_their_types_and_never_replace_those_of_every_line() {
        let error = io::Error::other("two\nlines");
        let line = logged(|| tracing::warn!(after = 3, ready = false, level = "odd", %error, "not {}", "well"));
        let expected = json!({
            "level": "WARN", "event": "log", "message": "not well",
            "after": 3, "ready": false, "field.level": "odd", "error": "two\nlines",
        });
        assert_eq!(line, expected);
    }
}
