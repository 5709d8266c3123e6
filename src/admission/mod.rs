//! AdmissionReviews over HTTP: parses a body into a request, and turns a decision into the answer.

pub mod handler;
pub mod memory;
mod patch;
pub mod paths;
pub mod review;
pub mod trace;
