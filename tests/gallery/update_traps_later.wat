;; Its shunt_update gives up at the second change of the servers.
(module
  (memory (export "memory") 1)
  (data (i32.const 64) "\01\00\00\00\00\00\00\00\00\04\00\00\00\10\00\00")
  (func (export "shunt_abi_version") (result i32) (i32.const 1))
  (func (export "shunt_init") (param i32 i32 i64) (result i32) (i32.const 64))
  (func (export "shunt_schedule") (result i32) (i32.const 0))
  (func (export "shunt_update") 
    ;; The table has its generation at offset 28.
    (if (i32.ge_u (i32.load (i32.const 92)) (i32.const 2)) (then (unreachable)))))
