;; It answers the first slot of weight 0, if there is one: the worst that it can choose.
(module
  (memory (export "memory") 1)
  (data (i32.const 64) "\01\00\00\00\00\00\00\00\00\04\00\00\00\10\00\00")
  (func (export "shunt_abi_version") (result i32) (i32.const 1))
  (func (export "shunt_init") (param i32 i32 i64) (result i32) (i32.const 64))
  (func (export "shunt_schedule") (result i32)
    (local $slot i32)
    (block $found
      (loop $next
        (if (i32.ge_u (local.get $slot) (i32.load (i32.const 88))) (then (return (i32.const 0))))
        (br_if $found
          (i32.eqz
            (i32.load (i32.add (i32.const 4096) (i32.shl (local.get $slot) (i32.const 5))))))
        (local.set $slot (i32.add (local.get $slot) (i32.const 1)))
        (br $next)))
    (local.get $slot)))
