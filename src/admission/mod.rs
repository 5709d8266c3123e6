//! AdmissionReviews over HTTP: bytes to a request, a decision to an answer.

pub mod handler;
mod patch;
pub mod review;
