//! The telemetry port, plain HTTP: `/livez`, `/readyz`, `/metrics`.

use std::{
    fmt::Write as _,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{clock::Clock, metrics::Metrics, tls::Serving};

/// What has to be true for the API server to be sent here. Each part is owned by whoever makes it true.
#[derive(Clone)]
pub struct Readiness {
    /// The certificate in force.
    pub serving: Arc<ArcSwap<Serving>>,
    pub clock: Clock,
    /// Set when the cluster answered for the first time. An API server that is away later is no reason to send the API
    /// server elsewhere.
    pub reached: Arc<OnceLock<()>>,
    /// Cancelled when the program was told to end.
    pub draining: CancellationToken,
}

impl Readiness {
    /// Every condition with what is wrong with it, if anything.
    fn conditions(&self) -> [(&'static str, Option<String>); 3] {
        let serving = self.serving.load();
        [
            ("certificate", valid_at(&serving, self.clock.now()).err()),
            ("cluster", self.reached.get().is_none().then(|| "not reached yet".to_owned())),
            ("shutdown", self.draining.is_cancelled().then(|| "draining".to_owned())),
        ]
    }
}

fn valid_at(serving: &Serving, now: Timestamp) -> Result<(), String> {
    if now < serving.not_before {
        Err(format!("not valid before {}", serving.not_before))
    } else if now > serving.not_after {
        Err(format!("expired at {}", serving.not_after))
    } else {
        Ok(())
    }
}

#[derive(Clone)]
struct Admin {
    readiness: Readiness,
    metrics: Arc<Metrics>,
}

/// The telemetry port's endpoints.
pub fn router(readiness: Readiness, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(Admin { readiness, metrics })
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let conditions = admin.readiness.conditions();
    let mut text = String::new();
    for (name, wrong) in &conditions {
        // Writing to a String cannot fail.
        let _ = match wrong {
            None => writeln!(text, "[+]{name} ok"),
            Some(why) => writeln!(text, "[-]{name}: {why}"),
        };
    }
    let ready = conditions.iter().all(|(_, wrong)| wrong.is_none());
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text).into_response()
}

async fn scrape(State(admin): State<Admin>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match admin.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
