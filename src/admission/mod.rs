//! AdmissionReviews over HTTP: bytes to a request, a decision to an answer.

pub mod gate;
pub mod handler;
pub mod review;

pub use gate::Gate;
