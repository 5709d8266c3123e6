pub mod policy;
pub mod admission;
pub mod cluster;
pub mod clock;
