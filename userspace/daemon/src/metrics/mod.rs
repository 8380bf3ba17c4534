//! Metrics for Prometheus: OpenMetrics text over HTTP.
//!
//! The server knows nothing of drivers. For each scrape it sends a [`StatsRequest`] over a channel, and who
//! holds the other end answers with the counts of as many drivers as there are.

mod exposition;
mod server;

pub use self::exposition::exposition;
pub use self::server::{MetricsError, MetricsServer, StatsRequest};
