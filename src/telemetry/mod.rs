//! The program's own log. It goes to standard error; standard output is for the audit log alone.

use clap::ValueEnum;
use tracing::Level;
use tracing_subscriber::{
    Layer, Registry, filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use self::{json::JsonLine, queue::Queue};

mod json;
mod queue;

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Json,
    Text,
}

/// The program's own log. Dropping it writes the lines that are still waiting.
#[must_use]
pub struct Log(Queue);

impl Log {
    /// Starts logging at the levels that `directives` select, in the syntax of `RUST_LOG`: `debug`,
    /// or `fencegate=debug,hyper=warn`. Without directives, or if they cannot be parsed: `info`.
    pub fn start(format: LogFormat, directives: Option<&str>) -> Self {
        let chosen = directives.and_then(|text| text.parse::<Targets>().ok());
        let filter = chosen.unwrap_or_else(|| Targets::new().with_default(Level::INFO));
        let queue = Queue::start(std::io::stderr());
        let writer = queue.clone();
        let lines = fmt::layer().with_writer(move || writer.clone());
        let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
            LogFormat::Json => Box::new(lines.event_format(JsonLine).with_filter(filter)),
            LogFormat::Text => Box::new(lines.with_filter(filter)),
        };
        // It fails only on a second call in one process; the first call's logging stays.
        let _ = tracing_subscriber::registry().with(lines).try_init();
        Self(queue)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.drain();
    }
}
