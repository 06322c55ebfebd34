;; Its shunt_configure refuses all parameters, with a sentence.
(module
  (memory (export "memory") 1)
  (data (i32.const 64) "\01\00\00\00\00\00\00\00\00\04\00\00\00\10\00\00")
  ;; params: 1024 bytes at 1024
  (data (i32.const 104) "\00\04\00\00\00\04\00\00")
  (func (export "shunt_abi_version") (result i32) (i32.const 1))
  (func (export "shunt_init") (param i32 i32 i64) (result i32) (i32.const 64))
  (func (export "shunt_schedule") (result i32) (i32.const 0))
  (data (i32.const 2048) "it takes no parameters on Sundays")
  (func (export "shunt_configure") (param i32) (result i32)
    (memory.copy (i32.const 1024) (i32.const 2048) (i32.const 33))
    (i32.const 33)))
