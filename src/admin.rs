//! The telemetry port: `/livez`, `/readyz` and `/metrics` over plain HTTP.

use std::{fmt, sync::Arc};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

/// One condition of readiness.
pub struct Condition {
    pub name: &'static str,
    /// Why it does not hold; `None` if it holds.
    pub failure: Option<String>,
}

/// The endpoints of the telemetry port. `/readyz` answers 200 if every condition holds, `/metrics`
/// what `scrape` returns.
pub fn router(
    conditions: impl Fn() -> Vec<Condition> + Send + Sync + 'static,
    scrape: impl Fn() -> Result<String, fmt::Error> + Send + Sync + 'static,
) -> Router {
    let (conditions, scrape) = (Arc::new(conditions), Arc::new(scrape));
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async move { readyz(&conditions()) }))
        .route("/metrics", get(|| async move { metrics(scrape()) }))
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

fn metrics(text: Result<String, fmt::Error>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
