//! What people see of the counts: rates between two looks, and text. Pure: nothing here reads a clock or a file.

pub mod format;
pub mod rates;
mod table;
pub mod text;

pub use rates::{QueueRates, Rates};

#[cfg(test)]
mod testing;
