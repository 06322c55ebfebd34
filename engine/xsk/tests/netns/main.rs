//! Queues and steering on a real kernel: a veth pair in namespaces of its own for each test.

mod counting_allocator;
mod forwarding;
mod frames;
mod packet_socket;
mod pair;
mod refusals;
mod steering;
mod table;
