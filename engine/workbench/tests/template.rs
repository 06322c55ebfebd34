//! The scheduler that `shunt plugin new` writes, compiled with this workspace's own SDK: what
//! changes there and breaks it is seen here first.

#[path = "../template/lib.rs"]
#[allow(dead_code)] // only its own tests use it
mod template;
