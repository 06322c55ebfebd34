;; It logs a line that reaches beyond its memory.
(module
  (import "shunt" "log" (func $log (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "\01\00\00\00\00\00\00\00\00\04\00\00\00\10\00\00")
  (func (export "shunt_abi_version") (result i32) (i32.const 1))
  (func (export "shunt_init") (param i32 i32 i64) (result i32) (i32.const 64))
  (func (export "shunt_schedule") (result i32)
    (call $log (i32.const 65530) (i32.const 100))
    (i32.const 0)))
