__sys_version__ = "9.1.0"
