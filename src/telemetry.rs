//! What the program says about itself while it runs: on standard error, so that standard output is the record alone.

use clap::ValueEnum;
use tracing::Level;
use tracing_subscriber::{
    Layer, Registry, filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Json,
    Text,
}

/// Starts logging what `directives` choose, as `RUST_LOG` has them: `debug`, or `fencegate=debug,hyper=warn`. Without any, or
/// with ones that make no sense, `info`.
pub fn init(format: LogFormat, directives: Option<&str>) {
    let chosen = directives.and_then(|text| text.parse::<Targets>().ok());
    let filter = chosen.unwrap_or_else(|| Targets::new().with_default(Level::INFO));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Json => Box::new(lines.json().flatten_event(true).with_filter(filter)),
        LogFormat::Text => Box::new(lines.with_filter(filter)),
    };
    // Only a second call in one process fails, and then the first one's logging stays.
    let _ = tracing_subscriber::registry().with(lines).try_init();
}
