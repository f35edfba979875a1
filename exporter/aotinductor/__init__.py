"""AOTInductor packages: what is asked, the program that is compiled, and the compiling process."""
