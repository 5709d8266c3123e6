pub mod policy;
pub mod admission;
pub mod cluster;
pub mod clock;
pub mod config;
pub mod reload;
pub mod audit;
pub mod metrics;
