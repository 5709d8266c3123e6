//! The telemetry port: `/livez`, `/readyz` and `/metrics` over plain HTTP.

use std::{fmt, sync::Arc};

use axum::{
    Router,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

/// One condition of readiness.
pub struct Condition {
    pub name: &'static str,
    /// Why it does not hold; `None` if it holds.
    pub failure: Option<String>,
}

/// The format of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The text format of Prometheus, which everything reads.
    Classic,
    OpenMetrics,
}

impl Format {
    /// OpenMetrics only for whoever asks for it.
    fn wanted(headers: &HeaderMap) -> Self {
        let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut accepts = accepts.flat_map(|value| value.split(','));
        let is_wanted = accepts.any(|range| range.trim_start().starts_with("application/openmetrics-text"));
        if is_wanted { Self::OpenMetrics } else { Self::Classic }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The endpoints of the telemetry port. `/readyz` answers 200 if every condition holds, `/metrics`
/// what `scrape` returns.
pub fn router(
    conditions: impl Fn() -> Vec<Condition> + Send + Sync + 'static,
    scrape: impl Fn(Format) -> Result<String, fmt::Error> + Send + Sync + 'static,
) -> Router {
    let (conditions, scrape) = (Arc::new(conditions), Arc::new(scrape));
    let metrics = async move |headers: HeaderMap| {
        let format = Format::wanted(&headers);
        metrics(format, scrape(format))
    };
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async move { readyz(&conditions()) }))
        .route("/metrics", get(metrics))
}

fn readyz(conditions: &[Condition]) -> Response {
    let line = |Condition { name, failure }: &Condition| match failure {
        None => format!("[+]{name} ok\n"),
        Some(why) => format!("[-]{name}: {why}\n"),
    };
    let text: Vec<String> = conditions.iter().map(line).collect();
    let is_ready = conditions.iter().all(|condition| condition.failure.is_none());
    (if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text.concat()).into_response()
}

fn metrics(format: Format, text: Result<String, fmt::Error>) -> Response {
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_are_for_whoever_asks_for_them() {
        let wanted = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            Format::wanted(&headers)
        };
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        assert_eq!(wanted(prometheus), Format::OpenMetrics);
        assert_eq!(wanted("text/plain;q=0.3, application/openmetrics-text"), Format::OpenMetrics);
        assert_eq!(wanted("*/*"), Format::Classic);
        assert_eq!(Format::wanted(&HeaderMap::new()), Format::Classic);
    }
}
