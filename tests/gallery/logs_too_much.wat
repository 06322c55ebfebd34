;; It logs a hundred lines for each flow.
(module
  (import "shunt" "log" (func $log (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "\01\00\00\00\00\00\00\00\00\04\00\00\00\10\00\00")
  (func (export "shunt_abi_version") (result i32) (i32.const 1))
  (func (export "shunt_init") (param i32 i32 i64) (result i32) (i32.const 64))
  (func (export "shunt_schedule") (result i32)
    (local $left i32)
    (local.set $left (i32.const 100))
    (loop $next
      (call $log (i32.const 1024) (i32.const 5))
      (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i32.const 0))
  (data (i32.const 1024) "hello"))
