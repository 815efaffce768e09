//! What makes the simulator stricter than Windows: its order of events, its rules, its faults, its reports.

pub mod dump;
pub mod explore;
pub mod fault;
pub(crate) mod recorder;
pub mod report;
pub mod rules;
pub mod schedule;
pub mod steps;
