//! The command as a user meets it: the built binary, its output and its exit codes.

mod check;
mod input;
mod lab;
mod matrix;
mod programs;
mod support;
mod verdict;
