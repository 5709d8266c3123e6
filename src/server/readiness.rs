//! Whether a replica is ready, and why not.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::{admin::Condition, audit::Audit, certificates::plan::Acceptance, clock::Clock, tls::Serving};

/// What makes the server ready. Each part is owned by the task that makes it true.
pub(super) struct Readiness {
    /// The certificate in use.
    pub serving: Arc<ArcSwap<Serving>>,
    /// Whether API servers accept it; `None` if that cannot be known.
    pub acceptance: Option<Arc<ArcSwap<Acceptance>>>,
    pub clock: Clock,
    /// Set when the cluster answered for the first time. If it does not answer later, no other
    /// replica would fare better.
    pub reached: Arc<OnceLock<()>>,
    pub audit: Audit,
    /// Cancelled when a shutdown was requested.
    pub draining: CancellationToken,
}

impl Readiness {
    /// Why API servers do not accept the serving certificate, as far as that is known.
    pub fn certificate_failure(&self) -> Option<String> {
        let rejection = || match &**self.acceptance.as_ref()?.load() {
            Acceptance::Accepted => None,
            Acceptance::Rejected(why) => Some(why.to_string()),
        };
        let invalid = self.serving.load().check(self.clock.now()).err();
        invalid.map(|why| why.to_string()).or_else(rejection)
    }

    pub fn conditions(&self) -> Vec<Condition> {
        let certificate = self.certificate_failure();
        let cluster = self.reached.get().is_none().then(|| "not reached yet".to_owned());
        let shutdown = self.draining.is_cancelled().then(|| "draining".to_owned());
        let audit_log = self.audit.failure();
        [("certificate", certificate), ("cluster", cluster), ("audit-log", audit_log), ("shutdown", shutdown)]
            .map(|(name, failure)| Condition { name, failure })
            .into()
    }
}
