//! The telemetry port, plain HTTP: `/livez`, `/readyz`, `/metrics`.

use std::{fmt, sync::Arc};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

/// One thing that has to be true for the API server to be sent here, and what is wrong with it, if anything.
pub type Condition = (&'static str, Result<(), String>);

/// The telemetry port's endpoints: ready while no condition fails, `scrape` is the text of the metrics.
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
    let line = |(name, state): &Condition| match state {
        Ok(()) => format!("[+]{name} ok\n"),
        Err(why) => format!("[-]{name}: {why}\n"),
    };
    let text: Vec<String> = conditions.iter().map(line).collect();
    let is_ready = conditions.iter().all(|(_, state)| state.is_ok());
    (if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text.concat()).into_response()
}

fn metrics(text: Result<String, fmt::Error>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
