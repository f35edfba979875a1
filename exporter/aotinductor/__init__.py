"""AOTInductor packages: the compiler's job, the program that is compiled, and the compiling process."""
